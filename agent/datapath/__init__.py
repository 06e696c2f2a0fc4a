"""The data plane proper: policy as map entries, programs loaded and attached, their maps filled."""
