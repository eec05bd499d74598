"""The name under which model versions were registered before the rooms: MLflow loads them by it.

New versions name nanochat/inference/pyfunc.py. It defines nothing.
"""

from nanochat.inference.pyfunc import ChatModel, _load_pyfunc

__all__ = ["ChatModel", "_load_pyfunc"]
