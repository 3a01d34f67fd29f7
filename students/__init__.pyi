from ._median import median_filter as median_filter
from ._psds import Psds as Psds
from ._psds import psds1 as psds1
from ._psds import psds1_ceiling as psds1_ceiling
from ._student import StudentLogits as StudentLogits
from ._student import StudentModel as StudentModel
from ._student import frame_mobilenet as frame_mobilenet
