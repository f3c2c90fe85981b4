"""A library for people who write tasks and encoders: data, networks and training for three kinds of task.

Take a kind of task, a recipe and labelled images, and a task is about ten lines (`python -m benchmark new task NAME`
writes one). Nothing else of this project is needed but `benchmark.api`.

* `classification`: `build_task`, its `Recipe`, and `Split`, images in memory with a class each.
* `detection`: `Detection`, its `DetectorRecipe`, and `Split`, images with boxes (`Truth`).
* `segmentation`: `Segmentation`, its `SegmenterRecipe`, and `Split`, images with a label map each.
* `data`: readers of COCO's and PASCAL VOC's formats, of folders and label maps; what is wrong with a file is said.
* `encoding`: features of frozen networks, kept on disk, and training without labels: for encoders.
* `training`: the engine that trains all three: optimiser, learning rate, companion, precision, checkpoints.
* `networks`: networks by name: ours, torchvision's, timm's, pycls'. `weights`: files of weights.
* `recipes`: how a recipe is read from a task's parameters and checked. `pixels`: ImageNet's and CIFAR's means.
* `directional`: derivatives of losses along a direction of the weights, for strategies of influence.
* `fingerprints`: hashes of data and settings, and seeds by name.

Each kind of task has two functions that `register_task` takes: `lacks`, from the parameters the capabilities that a
recipe takes away, and `check_weights`, which looks at files of weights before any data are read.
"""
