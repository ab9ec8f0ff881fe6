import pytest

from lesson_helpers import paths, workspace
from lesson_helpers.errors import LessonError


def test_a_notebook_finds_its_starting_point_in_an_empty_workspace(tmp_path, capsys):
    here = workspace.start("02-train-on-cpu", tmp_path / "new")
    script = "jobs/src/torch_mnist.py"
    assert (here / script).read_bytes() == (paths.root() / script).read_bytes()
    assert script in capsys.readouterr().out


def test_a_file_of_the_learners_stays_as_it_is(tmp_path, capsys):
    mine = tmp_path / "jobs/src/torch_mnist.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n")
    workspace.start("02-train-on-cpu", tmp_path)
    assert mine.read_text() == "mine\n"
    workspace.start("02-train-on-cpu", tmp_path)
    assert capsys.readouterr().out.endswith("Everything this notebook starts from is there.\n")


def test_a_relative_workspace_counts_from_the_checkout_not_from_the_kernel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.inside("workspace") == paths.root() / "workspace"


@pytest.mark.parametrize("notebook", workspace.STARTING_POINTS)
def test_each_starting_point_is_in_the_kit(notebook):
    assert (paths.root() / f"notebooks/{notebook}.ipynb").is_file()
    for name in workspace.STARTING_POINTS[notebook]:
        assert (paths.root() / name).exists()


def test_an_unknown_notebook_is_said_in_three_parts(tmp_path):
    with pytest.raises(LessonError, match="no notebook '05'") as refused:
        workspace.start("05", tmp_path)
    assert "01-environment" in refused.value.fix


def test_a_workspace_that_is_a_file_is_said_in_three_parts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LessonError, match="A folder was expected") as refused:
        workspace.start("01-environment", tmp_path / "file")
    assert refused.value.where == str(tmp_path / "file")


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/work", "circle"])
def test_a_path_that_leads_nowhere_is_said_in_three_parts(tmp_path, folder):
    (tmp_path / "circle").symlink_to("circle")
    given = folder if folder.startswith("~") else tmp_path / folder
    with pytest.raises(LessonError, match=r"no path of a folder|can't be written") as refused:
        workspace.start("02-train-on-cpu", given)
    assert folder in refused.value.where
    assert "folder" in refused.value.fix


@pytest.mark.parametrize("folder", ["", ".", paths.root()])
def test_the_checkout_as_a_workspace_is_refused_in_three_parts(folder):
    with pytest.raises(LessonError, match="checkout itself can't be the workspace") as refused:
        workspace.start("02-train-on-cpu", folder)
    assert repr(str(folder)) in refused.value.where
    assert "such as workspace" in refused.value.fix


def test_a_workspace_below_a_file_is_said_in_three_parts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LessonError, match="can't be written") as refused:
        workspace.start("01-environment", tmp_path / "file/below")
    assert "folder" in refused.value.fix


def test_a_shown_file_is_the_file_itself(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM one\nRUN two\nUSER three\n")
    shown = workspace.show(tmp_path / "Dockerfile", 2, 3)
    assert shown.data == "RUN two\nUSER three"
    assert shown.language == "docker"


def test_lines_to_show_can_be_named_by_what_they_hold(tmp_path):
    (tmp_path / "Dockerfile").write_text("USER one\nRUN two\nUSER three\nRUN four\n")
    assert workspace.show(tmp_path / "Dockerfile", "RUN", "USER").data == "RUN two\nUSER three"
    with pytest.raises(LessonError, match="No line of the file holds 'COPY'") as refused:
        workspace.show(tmp_path / "Dockerfile", "COPY")
    assert refused.value.where.endswith("Dockerfile")
    assert "name a line of it" in refused.value.fix


def test_a_file_that_is_not_there_is_said_in_three_parts(tmp_path):
    with pytest.raises(LessonError, match="no such file to show") as refused:
        workspace.show(tmp_path / "none")
    assert refused.value.where == str(tmp_path / "none")
