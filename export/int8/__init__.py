"""int8 by explicit quantise/dequantise pairs: one recipe per backbone family, what each layer costs, what goes back."""
