"""What mainly the chapter calls: AdaLoRA, truncation, random subspaces, a short head, figures."""
