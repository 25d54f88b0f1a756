"""The parts of the NVML sidecar (`server.nvml_sidecar`): wire form, reader, poller, hub, replay, web."""
