"""Job kinds: a light half that declares and calibrates, a heavy half that runs in a worker."""
