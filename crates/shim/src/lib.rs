//! The preload library. It exports libc's file functions, asks [`shim_core`] what each call means,
//! and makes system calls by number. All of its `unsafe`, and nothing else, is here.
//!
//! Hooks never panic on purpose and never unwind (`panic = "abort"`); they keep `errno` on success
//! and set it on failure in one place ([`edge`]).
#![allow(unsafe_code, missing_docs, clippy::missing_safety_doc)]

mod allocator;
mod directories;
mod edge;
mod files;
mod names;
mod start;
mod stdio;

#[global_allocator]
static ALLOCATOR: allocator::Pages = allocator::Pages;
