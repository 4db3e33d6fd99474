"""From items to points: plan, decode, encode, write."""
