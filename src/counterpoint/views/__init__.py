"""Views: related samples made from a sample."""
