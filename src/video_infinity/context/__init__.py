"""The paper's mathematics: dual-scope attention, halo convolution, group norm over the timeline."""
