"""The job kind PrivateFeatures: releases a noisy table of features, once."""
