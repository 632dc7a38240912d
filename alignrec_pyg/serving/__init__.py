"""A trained model in use: new items and users, similar items, reasons, exports, sharing."""
