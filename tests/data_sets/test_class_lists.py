"""`classes.txt` is read in the forms that people and annotation tools write; other text is refused."""

import pytest

from data.folder.classes import read_classes

VALUES, COLOURS = {7: 0, 8: 1, 255: 255}, {(128, 64, 128): 0, (0, 0, 142): 1}
VALUE_LISTS = {
  "equals": "road = 7\ncar = 8",
  "numbers first and equals": "7 = road\n8=car",
  "numbers first": "7 road\n8 car",
  "numbers and colons": "7: road\n8: car",
  "numbers and stops": "7. road\n8. car",
  "numbers and dashes": "7 - road\n8 - car",
  "numbers and tabs": "7\troad\n8\tcar",
  "names first": "road: 7\ncar: 8",
  "csv": "id,name\n7,road\n8,car",
  "tabs and other columns": "Idx\tRatio\tName\n7\t0.3\troad\n8\t0.1\tcar",
  "semicolons": "Name;Value\nroad;7\ncar;8",
  "no header": "road,7\ncar,8",
  "data.yaml": "path: ../set\nnames:\n  7: road  # Asphalt.\n  8: car\n",
  "data.yaml in one line": "nc: 2\nnames: {7: road, 8: car}\n",
}
COLOUR_LISTS = {
  "equals": "road = 128,64,128\ncar = 0,0,142",
  "colours first and equals": "128, 64, 128 = road\n#00008e = car",
  "blanks after commas": "road = 128, 64, 128\ncar = 0, 0, 142",
  "blanks alone": "road = 128 64 128\ncar = 0 0 142",
  "hex digits": "road = #804080\ncar = #00008E  # Vans too.",
  "brackets": "road = [128, 64, 128]\ncar = (0 0 142)",
  "colons": "road: 128,64,128\ncar: #00008e",
  "camvid": "128 64 128\t\troad\n0 0 142\tcar",
  "names and blanks": "road 128 64 128\ncar 0 0 142",
  "class_dict.csv": "name,r,g,b\nroad,128,64,128\ncar,0,0,142\n",
  "csv with blanks and numbers": "id, Name, Red, Green, Blue\n0, road, 128, 64, 128\n1, car, 0, 0, 142",
  "csv of hex digits": "class;color\nroad;#804080\ncar;#00008e",
  "csv of quoted colours": 'label,rgb\nroad,"128, 64, 128"\ncar,"0,0,142"',
  "no header": "road,128,64,128\ncar,0,0,142",
  "cvat": "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142:wheel,door:drive\n",
}
NAME_LISTS = {
  "plain": ("road\ncar", ("road", "car")),
  "labelme": ("__ignore__\n_background_\nroad\ncar", ("_background_", "road", "car")),
  "data.yaml": ("names: ['road', 'no']\nnc: 2", ("road", "no")),
  "data.yaml in lines": ("train: images\nnames:\n- road\n- car\n", ("road", "car")),
  "with numbers": ("class 0\nclass 1", ("class 0", "class 1")),
  "starting with a number": ("2 wheeler\ncar\nbus", ("2 wheeler", "car", "bus")),
  "several words": ("traffic light (red)\nperson/rider", ("traffic light (red)", "person/rider")),
}


def read(folder, text):
  (folder / "classes.txt").write_text(text, encoding="utf-8")
  return read_classes(folder / "classes.txt")


@pytest.mark.parametrize("form", VALUE_LISTS)
def test_lists_of_values(tmp_path, form):
  classes = read(tmp_path, VALUE_LISTS[form])
  assert classes.label_set.classes == ("road", "car")
  assert classes.values == VALUES and not classes.colours and classes.listed == "values"


@pytest.mark.parametrize("form", COLOUR_LISTS)
def test_lists_of_colours(tmp_path, form):
  classes = read(tmp_path, COLOUR_LISTS[form])
  assert classes.label_set.classes == ("road", "car") and classes.label_set.palette == tuple(COLOURS)
  assert classes.colours == COLOURS and not classes.values and classes.listed == "colours"


@pytest.mark.parametrize("form", NAME_LISTS)
def test_lists_of_names(tmp_path, form):
  text, names = NAME_LISTS[form]
  classes = read(tmp_path, text)
  assert classes.label_set.classes == names and classes.listed == "names"
  assert classes.values == {value: value for value in (*range(len(names)), 255)}


def test_several_colours_and_void_in_other_spellings(tmp_path):
  classes = read(tmp_path, "road = [128, 64, 128], #ff0000\ncar = 0, 0, 142  0, 0, 70\n__ignore__ = #000000")
  assert classes.colours == {(128, 64, 128): 0, (255, 0, 0): 0, (0, 0, 142): 1, (0, 0, 70): 1, (0, 0, 0): 255}


@pytest.mark.parametrize("form", sorted(VALUE_LISTS.keys() - {"data.yaml", "data.yaml in one line"}))
def test_void_can_be_added_to_every_list(tmp_path, form):
  assert read(tmp_path, f"{VALUE_LISTS[form]}\nignore = 0").values == VALUES | {0: 255}


def test_three_values_are_no_colour(tmp_path):
  assert read(tmp_path, "road = 7 8 9\ncar = 10 11 12").values == {7: 0, 8: 0, 9: 0, 10: 1, 11: 1, 12: 1, 255: 255}


@pytest.mark.parametrize(
  "text, message",
  [
    ('{\n"road": [1, 2, 3]\n}', "line 1: '{' cannot be the name of a class (3 of 3 lines cannot). Write one name per"),
    ("nc: 3\ntrain: images/train", "line 1: 'nc: 3' cannot be the name of a class"),
    ("road\ncar, parked", "line 2: 'car, parked' cannot be the name of a class (1 of 2 lines"),
    ("128 64 128\n0 0 142", "line 1: '128 64 128' cannot be the name of a class"),
    ("0 128 64 128 road\n1 0 0 142 car", "line 1: '0 128 64 128 road' cannot be the name"),
    ("road\tflat\ncar\tvehicle", r"line 1: 'road\tflat' cannot be the name"),
    ("train/001.jpg\ntrain/002.JPG", "line 1: 'train/001.jpg' cannot be the name of a class (2 of 2 lines"),
    ("road\n---", "line 2: '---' cannot be the name"),
    ("road\ncar\u200b", r"line 2: 'car\u200b' cannot be the name"),
    ("road\x1b[31m = 0\ncar = 1", r"lists 'road\x1b[31m', which has control characters. Remove them."),
    ("0 road\n1 car\nsky", "line 3: 'sky' has no value or colour, unlike other lines."),
    ("name,r,g,b\nroad,128,64,128\ncar,0,0", "line 3: 'car,0,0' has no value or colour, unlike other lines."),
    ("road: 0\ncar: 256", "line 2: '256' is neither a value from 0 to 255 nor a colour"),
    ("names: [road", "is no YAML file"),
    (f"names: {'[' * 100_000}", "is no YAML file"),
    ("names: 3", "has `names` that are neither a list of names nor VALUE: NAME. Write one name per line"),
    ("road\n__ignore__", "lists '__ignore__', which is not a class: 255 is void. For another value write name ="),
  ],
)  # fmt: skip
def test_text_that_lists_no_classes_is_refused(tmp_path, text, message):
  with pytest.raises(ValueError) as error:
    read(tmp_path, text)
  assert message in str(error.value) and str(tmp_path / "classes.txt") in str(error.value)


def test_a_list_of_another_name_is_offered(tmp_path):
  (tmp_path / "labelmap.txt").touch()
  with pytest.raises(ValueError, match="classes.txt not found.*: cp .*labelmap.txt .*classes.txt"):
    read_classes(tmp_path / "classes.txt")
