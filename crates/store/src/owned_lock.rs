//! A lock in shared memory that outlives its holder.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::sys;

/// Holds the lock until dropped.
pub struct Held<'a> {
    word: Option<&'a AtomicU32>,
}

/// Takes the lock `word`, which holds its owner's thread id or 0. A holder that died loses it; a nested
/// call of the holder (a signal handler) passes.
pub fn lock(word: &AtomicU32) -> Held<'_> {
    let me = sys::gettid();
    let mut spins = 0u32;
    loop {
        match word.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Held { word: Some(word) },
            Err(owner) if owner == me => return Held { word: None },
            Err(owner) => {
                spins += 1;
                if spins.is_multiple_of(1000) && sys::process_start(owner).is_none() {
                    let _ = word.compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed);
                }
            }
        }
        if spins < 100 {
            std::hint::spin_loop();
        } else {
            sys::sleep(Duration::from_micros(20));
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(word) = self.word {
            word.store(0, Ordering::Release);
        }
    }
}
