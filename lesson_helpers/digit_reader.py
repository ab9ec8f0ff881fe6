"""A program that reads digits with a trained network: a picture a line in, its probabilities a line out.

``drawing.py`` starts it with the Python that has torch: ``python digit_reader.py WEIGHTS JOBS/SRC``. A line
of input is 784 grey levels in base64, a line of output ten numbers as JSON. It ends with its input.
"""

import base64
import json
import sys
from pathlib import Path


def main(weights: str, sources: str) -> None:
    """Answer until there is nothing more to read."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, sources)
    import torch
    from mnist_network import MistakeError, scaled
    from torch_mnist import load_network

    try:
        network = load_network(Path(weights)).eval()
    except MistakeError as error:
        sys.exit(str(error))
    for line in sys.stdin:
        levels = torch.tensor(list(base64.b64decode(line)), dtype=torch.uint8)
        with torch.inference_mode():
            probabilities = network(scaled(levels.view(1, 1, 28, 28))).softmax(1)[0]
        print(json.dumps([round(p, 4) for p in probabilities.tolist()]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
