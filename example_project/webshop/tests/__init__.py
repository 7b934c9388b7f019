"""test_live.py needs a broker, the others need nothing."""
