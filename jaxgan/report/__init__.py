"""What people look at: pictures and texts, made from arrays and histories."""
