"""Job kinds: for each a light half that declares and calibrates, and a heavy half that runs in a worker."""
