# A second base makes any training a fully sharded one: docs/scaling.md.
runner_type = 'mmvheat.FlexibleRunner'
strategy = dict(
    type='mmvheat.FSDPStrategy',
    model_wrapper=dict(
        # One unit a HeatBlock; all else, the frequency embeddings too, is gathered at the start.
        auto_wrap_policy='mmvheat.wrap_heat_blocks',
        sharding_strategy='FULL_SHARD',
    ),
    state_dict_cfg='full',
)
