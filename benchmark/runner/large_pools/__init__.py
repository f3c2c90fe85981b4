"""Pools of millions of images: what is known of each image lies on disk in shards, and strategies select from there."""
