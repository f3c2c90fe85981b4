"""`pick`: chooses the next images to label among files that have no label."""
