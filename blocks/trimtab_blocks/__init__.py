"""Trimtab's configuration as Prefect blocks: where the data is and goes, where MLflow is, when to retrain."""

from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.policy import RetrainPolicy
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import DirectoryStore
from trimtab_blocks.tiering import TieringPolicy

__all__ = ["DirectoryStore", "MlflowTracking", "RetrainPolicy", "S3Store", "TieringPolicy"]
