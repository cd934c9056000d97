"""What `hobbit tune` could have stored: for the checks that write such files, and the tests that read them."""

from hobbit_py.tune import Tuning

TUNING = Tuning(
    hi_above=0.25,
    skip_below=0.05,
    wait_above=0.5,
    tilt=0.25,
    lo_share=0.5,
    reroute_below=0.0,
    reroute_fall=0.0,
    loss=0.004,
    loss_se=0.001,
    bytes_ratio=0.4,
    time_ratio=0.5,
    tokens=1024,
    max_loss=0.01,
    expert_memory_bytes=1 << 20,
)
