from ._db_mel import db_mel as db_mel
from ._kaldi import KaldiFbank as KaldiFbank
from ._kaldi import kaldi_fbank as kaldi_fbank
from ._mel import MelBand as MelBand
from ._mel import jittered_band as jittered_band
from ._mel import log_mel as log_mel
from ._slaney import slaney_log_mel as slaney_log_mel
