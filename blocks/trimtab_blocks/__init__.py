"""Trimtab's configuration as Prefect blocks: where the data is, where MLflow is, when to retrain."""

from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.policy import RetrainPolicy
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import DirectoryStore

__all__ = ["DirectoryStore", "MlflowTracking", "RetrainPolicy", "S3Store"]
