"""Values for random command lines, by what takes them: valid, nearly valid and absurd ones."""

from gcn_flax.command_line import MODES

# Words that a command line is not made for. No NUL: an operating system passes none.
ODD = (
  "", " ", "''", '""', "None", "null", "nan", "-nan", "inf", "-inf", "1e400", "-1", "0", "1", "0x10", "1_000", "1,5",
  "٣", "ünïcödé", "日本", "\udcff", "\u202e", "a\nb", "a\tb", "%s%n", "{}", "{0}", "[]", "()", "((((", "(" * 300,
  "x" * 5000, "9" * 5000, "$HOME", "~", "~no_such_user", ".", "..", "/", "-", "--", "=", "==", "#", "\\", "*", "?",
  "[", "True", "__import__('os')", "lambda: 0", "1e9", "10**9", "1/0",
)  # fmt: skip
INTEGERS = (
  "0", "1", "2", "3", "7", "8", "16", "64", "-1", "-8", "100", "4294967295", "2147483648", "9223372036854775807",
  "9223372036854775808", "1" + "0" * 30, "1.0", "1.5", "1e3", "+8", " 8", "08", "many",
)  # fmt: skip
FLOATS = (
  "0", "0.0", "1", "0.5", "0.001", "2.0", "1.5", "-0.0", "-1e-9", "1e-320", "1e308", "1e39", ".5", "5.", "1e3",
  "half",
)  # fmt: skip
BOOLEANS = ("true", "false", "True", "False", "1", "0", "t", "yes", "no", "2")
SIZES = (
  "(64,64)", "(64,96)", "(96,96)", "(32,32)", "(128,128)", "64,64", "(64)", "(64,)", "(64,64,64)", "()", "[64,64]",
  "[[64,64]]", "(64.0,64.0)", "('64','64')", "(0,0)", "(-64,64)", "(33,64)", "(True,64)", "(None,64)", "(64,(64))",
  "((64,64),)", "(1e400,64)", "(320000000000000000000,64)", "(9223372036854775808,64)", "{'h':64}", "64", "(64 64)",
  "(64,64",
)  # fmt: skip
TUPLES = (
  "()", "(1.0,)", "(0.5,2.0)", "(1,)", "(2.0,0.5)", "(0,1)", "(0.5,)", "(1,2,3)", "(0.08,1.0)", "(-1,1)", "('a','b')",
  "(1e400,)", "(float('nan'),)", "((1.0,),)", "[1.0,2.0]", "1.0", "(None,)", "(True,)", "(1" + ",1" * 20 + ")",
  "(0" + ",0" * 20 + ")", "(1e308" + ",1e308" * 20 + ")", "(-1" + ",1" * 20 + ")", "{1}", "b'x'", "...", "(1j,)",
)  # fmt: skip
MIXES = (
  '(("voc_segmentation","train","all once"),)', '(("voc_segmentation","train",1),)',
  '(("voc_segmentation","train_aug",1.5),)', '(("voc_segmentation","train",1),("voc_segmentation","validation",2))',
  '(("voc_segmentation","train",1e-30),("voc_segmentation","validation",1e30))',
  '(("voc_segmentation","train",1),("voc_segmentation","train",1))', '(("voc_segmentation","test",1),)',
  '(("voc_segmentation","nothing",1),)', '(("coco_voc","train",1),)', '(("camvid","train",1),)',
  '(("imagenet2012","train",1),)', '("voc_segmentation","train",1)', '("voc_segmentation",)',
  '(("voc_segmentation","train"),)', '(("voc_segmentation","train",0),)', '(("voc_segmentation","train",-1),)',
  '(("voc_segmentation","train","1"),)', '(("voc_segmentation","train",float("nan")),)',
  '(("voc_segmentation","train",True),)', '(("voc_segmentation",1,1),)', '((1,2,3),)', '(((),(),()),)',
  '(("voc_segmentation","train",[1]),)', '(("voc_segmentation","train",{}),)', '((["voc_segmentation"],"train",1),)',
  '(("","",1),)', "()", "((),)", '(("../data","train",1),)', '(("voc_segmentation","../train",1),)',
  '(("voc_segmentation","train[:50%]",1),)', '(("voc_segmentation","train",1' + "0" * 400 + '),)',
  '(("voc_segmentation","train",1e308),("voc_segmentation","validation",1e308))',
)  # fmt: skip
PATHS = (
  "run", "run/", "./run", "run/../run", "new", "deep/er/new", "data", "data/voc_segmentation",
  "data/voc_segmentation/1.0.0", "pictures", "archives", "pictures/0.png", "pictures/0.png/new", "run/config.json",
  "run/checkpoints", "run/checkpoints/2", "run/export", "run/export/network.safetensors",
  "run/export/encoder.safetensors", "notes.txt", "broken.safetensors", "broken.pth", "empty", "loop", "dangling",
  "nowhere", "nowhere.safetensors", "nowhere.pth", "s3://bucket/run", "http://host/run", "gs:/bucket/run",
  "file:///run", "~/run", "n" * 300, "näme", "na me", "a\nb", "\udcff", "%s", "*", "/dev/null", "/dev/null/run",
  "/proc/nothing", "", " ", ".",
)  # fmt: skip
SPLITS = (
  "train", "validation", "test", "trainval", "train_aug", "sbd", "val", "Train", "", "nothing", "../train",
  "train/../../x", "train[:1]", "x" * 300, "train+validation", "*", "tëst", "a\nb", "\udcff",
)  # fmt: skip
FLAGS = {
  "config": (
    "configs/quickstart.py", "configs/quickstart.py:pointwise", "configs/camvid.py", "configs/camvid.py:resnet18",
    "configs/cityscapes.py", "configs/cityscapes.py:stage2:modern", "configs/folder.py:resnet_tiny",
    "configs/silhouettes.py", "configs/imagenet.py", "configs/pascal_voc.py", "configs/pascal_voc.py:stage3:modern",
    "configs/ablation.py", "configs/pascal_voc.py:", "configs/pascal_voc.py::", "configs/pascal_voc.py:nothing",
    "configs/quickstart.py:gcn:more", "configs", "configs/", "configs/nothing.py", "notes.txt", "run/config.json",
    "configs/../configs/camvid.py", "raises.py", "returns_none.py", "no_function.py", "syntax.py",
    "prints.py", "empty", "loop", "dangling", "", ":", "::", "n" * 300, "\udcff", "/dev/null",
  ),
  "workdir": PATHS,
  "mode": (*MODES, "", "Train", "evaluate", "train,eval", "evalx", "0", "\udcff"),
  "checkpoint": (
    "best", "last", "0", "1", "2", "3", "-1", "02", "2.0", "", "first", "Best", "٢", "²", "9" * 5000,
    "run/checkpoints/2", "\udcff", "a\nb",
  ),
  "split": SPLITS,
  "images": (
    "pictures/*.png", "pictures/0.png", "pictures", "pictures/", "pictures/*", "**/*.png", "*.png", "notes.txt",
    "empty", "loop", "dangling", "nowhere/*.png", "", "[", "[]", "**", "~/*.png", "pictures/[0-9].png",
    "pictures/{0,1}.png", "\udcff*", "broken.png", "run/eval_validation.png", "x" * 5000,
    "pictures/0.png,pictures/1.png",
  ),
  "other": ("other", "other/", "../world/other", *PATHS),
  "pixel": (
    "0,0", "10,20", "39,49", "40,0", "9999,9999", "-1,2", "1", "1,", ",", "1,2,3", "1.5,2", "٣,٣", "", "9" * 30 + ",1",
  ),
  "submission": ("voc", "cityscapes", "", "VOC", "coco"),
  "output": ("out", "sent", "new/out", *PATHS),
  "topology": (
    "h100:8", "v5e:4x8", "v5e:2x2", "v4:2x2x2", "a100-40gb:1", "h100", "h100:", "h100:0", "h100:x", "h100:8:8", ":",
    "v5e:4", "v5e:4x", "v5e:0x8", "v5e:٣x٣", "v5e:3x5", "v5e:9999x9999", "h100:" + "9" * 30, "h100:" + "9" * 5000,
    "v5e:" + "9" * 5000 + "x1", "", "cpu", "H100:8", "h100:8 ", "h100:-8", "h100:08",
  ),
  "batch": ("auto", "1", "8", "64", "65", "0", "-1", "many", "", "1.0", "٣", "²", "9" * 30, "9" * 5000, "AUTO"),
  "spatial": ("all", "", "1", "4", "ALL", "none", "9" * 30),
  "coordinator": (
    "localhost:1234", "localhost", "localhost:", ":1234", "", "localhost:99999", "localhost:0", "[::1]:1234", "a b:1",
    "localhost:²", "\udcff:1",
  ),
  "num_processes": ("1", "2", "0", "-1", "", "many", "1.0", "9" * 30),
  "process_id": ("0", "1", "2", "-1", "", "many", "9" * 30),
  "join_timeout": ("1", "300", "0", "-1", "", "1.5", "many", "9" * 30, "9" * 400),
}  # fmt: skip
ODD_ARGUMENTS = (
  "--help", "-h", "--helpfull", "--helpshort", "-help", "--nohelp", "--help=1", "--helpxml", "--version",
  "--flagfile", "--flagfile=notes.txt", "--flagfile=nowhere", "--flagfile=loop", "--flagfile=run", "--undefok=steps",
  "--undefok", "--", "-", "---", "--=", "--=1", "-=", "--config.", "--config.=1", "--config..batch_size=8",
  "--config.data", "--config.data=1", "--config.data={}", "--config.data=", "--config.nothing=1",
  "--config.data.nothing=1", "--config.data.data_dir.x=1", "--config.batch_size", "--noconfig", "--config",
  "--noworkdir", "--config.__class__=1", "--config.get=1", "--config.eval.crf=1", "--config.to_json=1",
  "--noconfig.data.random_flip", "--config.data.random_flip", "--noconfig.data.random_crop", "--noconfig.batch_size",
  "--config.keys=1", "--config.lock=1", "--config.data.crop_size[0]=64", "--config.data.crop_size.0=64",
  "--config.seed=$(id)", "--steps=3", "--batchsize=8", "--con", "--work=new", "--mod=eval", "extra",
  "configs/camvid.py", "--logtostderr", "--v=1", "--verbosity=3", "--stderrthreshold=debug", "--log_dir=new", "--pdb",
  "--run_with_pdb", "--only_check_args", "--chex_n_cpu_devices=2", "--jax_platforms=tpu", "--alsologtostderr",
  "--xml_output_file=x", "--\udcff", "--\udcff=1", "\udcff", "--日本=1", "--a\nb=1", "--config.a\nb=1",
)  # fmt: skip
