"""The CPU runner whose forward pass is compiled C++. Without a compiler the engine uses plain torch instead."""
