"""`ADSTREAM_TEST_STORE_TYPE=disk pytest tests/unit/kstreams`: the same tests with every store on disk."""

import os

from adstream.testing import TopologyTestDriver

if store_type := os.environ.get("ADSTREAM_TEST_STORE_TYPE"):
    defaults = TopologyTestDriver.__init__.__kwdefaults__
    assert defaults is not None
    assert "store_type" in defaults
    defaults["store_type"] = store_type
