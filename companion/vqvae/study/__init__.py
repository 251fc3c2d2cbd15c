"""What mainly chapter 03 calls: drawings, a codebook at work in the plane, relaxed gradients."""
