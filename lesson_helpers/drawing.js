// The pad that a digit is drawn on. What is drawn becomes a picture like MNIST's: shrunk to fit into 20 × 20
// pixels, its centre of mass in the middle of 28 × 28.
const SIZE = 252;

function draw(context, from, to) {
  context.lineWidth = 22;
  context.lineCap = "round";
  context.strokeStyle = "#fff";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function levels(source) {
  const ink = source.getContext("2d").getImageData(0, 0, SIZE, SIZE).data;
  let [left, top, right, bottom, mass, middleX, middleY] = [SIZE, SIZE, 0, 0, 0, 0, 0];
  for (let y = 0; y < SIZE; y++) {
    for (let x = 0; x < SIZE; x++) {
      const weight = ink[4 * (y * SIZE + x)];
      if (!weight) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
      [mass, middleX, middleY] = [mass + weight, middleX + weight * x, middleY + weight * y];
    }
  }
  if (!mass) return null;
  const scale = 20 / Math.max(right - left, bottom - top);
  const small = document.createElement("canvas");
  small.width = small.height = 28;
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, 28, 28);
  context.setTransform(scale, 0, 0, scale, 14 - (scale * middleX) / mass, 14 - (scale * middleY) / mass);
  context.drawImage(source, 0, 0);
  const pixels = context.getImageData(0, 0, 28, 28).data;
  return Uint8Array.from({ length: 784 }, (_, number) => pixels[4 * number]);
}

function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "A pad to draw a digit on, with the mouse, a pen or a finger");
  canvas.style.cssText = "border: 1px solid; cursor: crosshair; touch-action: none";
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const clear = () => context.fillRect(0, 0, SIZE, SIZE);
  const button = document.createElement("button");
  button.textContent = "Clear";
  const answer = document.createElement("p");
  answer.setAttribute("aria-live", "polite");
  const say = () => (answer.textContent = model.get("answer"));

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIZE) / box.width, ((event.clientY - box.top) * SIZE) / box.height];
  };
  let last = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    draw(context, last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    draw(context, last, next);
    last = next;
  });
  const lifted = () => {
    if (!last) return;
    last = null;
    const drawn = levels(canvas);
    if (!drawn) return;
    model.set("picture", btoa(String.fromCharCode(...drawn)));
    model.save_changes();
  };
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  button.addEventListener("click", () => {
    clear();
    model.set("picture", "");
    model.save_changes();
  });
  model.on("change:answer", say);
  clear();
  say();
  el.append(canvas, document.createElement("br"), button, answer);
}

export default { render };
