"""The shop's app as the workers of these tests load it: configured by the test that started them."""

from __future__ import annotations

import json
import os

from example_project.shop import app

app.conf.update(json.loads(os.environ["SHOP_TEST_CONFIG"]))
