"""The command, the demo, pictures and HTML reports."""

from sed_distill_siblings import require

require(__file__, "pipeline", "shards", "jobs", "teachers", "students")
