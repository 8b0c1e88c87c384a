"""TFDS builder of CamVid with SegNet's 11 classes, from a folder of images and masks."""

import pathlib

import tensorflow_datasets as tfds

from data.camvid.folder import list_pairs


class Builder(tfds.core.GeneratorBasedBuilder):
  """CamVid (Brostow et al., 2009): 367 street photos for training, 101 for validation, 360 x 480 pixels."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = """
  images/train/*.jpg or *.png, images/val/*, and masks/train/*.png, masks/val/*.png of the same
  names: one channel, 0 to 10 for the classes in order, 255 for void.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "image_id": tfds.features.Text(),
          "image": tfds.features.Image(shape=(None, None, 3)),
          "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        }
      ),
      description="Street scenes with 11 classes; 255 is void.",
      homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    )

  def _split_generators(self, dl_manager):
    root = pathlib.Path(dl_manager.manual_dir)
    return {split: self._generate_examples(root, split) for split in ("train", "validation")}

  def _generate_examples(self, root, split):
    for image, mask in list_pairs(root, split):
      yield image.stem, {"image_id": image.stem, "image": str(image), "label": str(mask)}
