"""The few operations that deserve a GPU kernel: each a public function with a torch reference beside it."""
