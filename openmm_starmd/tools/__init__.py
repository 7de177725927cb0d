"""Looking at weights, checking and converting them."""
