"""Data."""

from reslab.data.loader import Loader as Loader
from reslab.data.options import DataOptions as DataOptions
from reslab.data.prepare import Data as Data
from reslab.data.prepare import prepare as prepare
from reslab.data.sources import Source as Source
from reslab.data.sources import find_source as find_source
from reslab.data.transforms import Preprocess as Preprocess
