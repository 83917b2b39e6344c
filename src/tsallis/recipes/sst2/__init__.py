"""SST-2: any sequence classifier fine-tuned with softmax, and with alpha learned in every attention head."""
