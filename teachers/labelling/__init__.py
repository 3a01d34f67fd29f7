"""From audio shards to label shards: what is missing (_stage), one shard (_shard), its batches (_batch), the device."""
