"""Read audio and labels with webdataset: python docs/plain_webdataset.py AUDIO.tar LABELS.tar

Of sed-distill only the decoder of labels is needed. Audio has to be of codec flac or pcm16; for a tar of codec `fast`,
`shards.decode_fast` is the decoder.
"""

import io
import sys

import soundfile
import webdataset

from shards import decode_label

audio, labels = (webdataset.WebDataset(tar, shardshuffle=False) for tar in sys.argv[1:3])
logits = {clip["__key__"]: decode_label(clip.get("label") or clip["npy"]) for clip in labels}
for clip in audio:
    pcm, sample_rate = soundfile.read(io.BytesIO(clip.get("flac") or clip["wav"]), dtype="int16")
    if clip["__key__"] in logits:  # a clip that the teacher failed on has no label
        print(clip["__key__"], pcm.shape, sample_rate, logits[clip["__key__"]].shape)
