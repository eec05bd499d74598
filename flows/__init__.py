"""Prefect, S3 and MLflow around the library: they start its stages as processes and keep what those make.

One foreign service, one file: only `store.py` knows boto3, only `track.py` knows mlflow. Nothing here imports torch.
"""
