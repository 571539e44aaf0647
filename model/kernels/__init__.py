"""The GPU kernels, each beside its reference in plain torch: `model.fp8` for quantisation and products, `model.moe` for
routing and the movement of rows. This folder is the only home of triton; import its modules where they are used.

``quantize``  1x128 and 128x1 tiles in one pass, 128x128 blocks, SwiGLU fused with quantisation
``products``  block-FP8 products: forward, Dgrad and Wgrad, grouped by expert or dense
``grouped``   the kernel behind ``products`` (Hopper only)
``rows``      permute and unpermute
``router``    scores, group limits, top-k and gates
``digest``    sums of all words of many tensors; its reference is `model.digest`
``norms``     the residual stream's sums and norms, the latents' norms
``adamw``     AdamW's update, fused with the quantisation of the weight
``gradients`` the gradients of queries, and of keys and values, quantised
``launch``    launches at less cost on the host

Of the native engine, each row the same to the bit whatever else is in the batch:

``invariant``  products with BF16 or FP8 weights, plain, batched and by expert
``latent``     the cache of latents and attention over it
``stream``     residual sums and norms, the choice of experts, the draw of a token

Left out: attention, which stays in BF16 and which torch does well.
"""
