"""The way of a row: source, plan, reader, encoder, scatter and finalise or window, scaler, blocks."""
