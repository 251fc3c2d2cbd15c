"""What mainly the chapter calls: truncation, intrinsic dimension, figures."""
