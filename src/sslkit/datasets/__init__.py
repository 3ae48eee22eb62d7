"""Generated pictures and clips with exact ground truth, and small real ones. Nothing is downloaded unless asked for."""

from sslkit.datasets._backgrounds import FAMILIES
from sslkit.datasets._copy_attack import copy_attack
from sslkit.datasets._digits import digits
from sslkit.datasets._loaded import Broken, LoadedImages
from sslkit.datasets._retrieval import RetrievalTruth, retrieval_labels
from sslkit.datasets._shapes import CLASSES, ORIENTED
from sslkit.datasets.clips import ClipBatch, ClipFolder, ClipItem, uniform_frames
from sslkit.datasets.folder import Folder, FolderBatch, FolderItem
from sslkit.datasets.scenes import SceneBatch, Scenes, Split
from sslkit.datasets.torchvision_sets import torchvision_dataset
from sslkit.datasets.videos import MOTIONS, SceneVideos, VideoBatch

__all__ = [
    "CLASSES",
    "FAMILIES",
    "MOTIONS",
    "ORIENTED",
    "Broken",
    "ClipBatch",
    "ClipFolder",
    "ClipItem",
    "Folder",
    "FolderBatch",
    "FolderItem",
    "LoadedImages",
    "RetrievalTruth",
    "SceneBatch",
    "SceneVideos",
    "Scenes",
    "Split",
    "VideoBatch",
    "copy_attack",
    "digits",
    "retrieval_labels",
    "torchvision_dataset",
    "uniform_frames",
]
