"""The inside of the jail: processes that compile and run foreign WebAssembly, and nothing else.

The only home of wasmtime. Nothing imports this package; `synapsed.jail` starts it, as

    python -I -m synapsed.jailworker MODE LAYERS PARENT

    compile   a module on descriptor 4 to native code on descriptor 5, once
    wat       text on descriptor 4 to a module on descriptor 5, once
    run       modules on batches in the arena on descriptor 4, until the socket closes

LAYERS are the walls to put up (`synapsed.jail.layers`), PARENT the process to die with.
"""
