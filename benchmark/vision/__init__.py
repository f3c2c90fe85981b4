"""A library for people who write tasks and encoders: data, networks and training for four kinds of task.

A task on your own data takes about ten lines: a kind of task, a recipe and labelled images (`python -m benchmark new
task NAME` writes an example). Apart from this library, a task needs only `benchmark.api`.

* `classification`: `build_task`, its `Recipe`, and `Split`, images in memory with one class each.
* `detection`: `Detection`, its `DetectorRecipe`, and `Split`, images with boxes (`GroundTruth`).
* `segmentation`: `Segmentation`, its `SegmenterRecipe`, and `Split`, images with one label map each.
* `keypoints`: `PoseEstimation`, its `PoseRecipe`, and `Split`, images with boxes that have keypoints (`PoseTruth`).
* `data`: readers of COCO's and PASCAL VOC's formats, of image folders and of label maps, which report faulty files.
* `encoding`: features of frozen networks, cached on disk, and self-supervised training, for encoders.
* `training`: the training engine of all kinds: optimiser, companion, precision, checkpoints. `learning_rate`: the
  learning rate over a fit.
* `networks`: networks by name: this project's, torchvision's, timm's and pycls'. `weights`: loading files of weights.
* `recipe_checks`: building a recipe from a task's parameters, and checking it. `pixels`: channel means of known data
  sets.
* `directional`: derivatives of losses along a direction in weight space, for influence-based strategies.
* `fingerprints`: hashes of data and settings, and seeds derived by name.

Each kind of task has two functions for `register_task`: `missing_capabilities` returns the capabilities that a recipe
rules out, and `check_weights` checks files of weights before any data are read.
"""
