//! A layer as a tar stream and as a split layer.
