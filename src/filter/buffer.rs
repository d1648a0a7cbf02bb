//! Requests are complete before anyone after this sees them.

use super::chain::{State as Held, Verdict};
use super::context::Context;

pub(super) fn on_request(most: Option<u32>, held: &mut Held, ctx: &mut Context<'_>) -> Verdict {
    let Some(most) = most else { return Verdict::Continue };
    if ctx.ends {
        return Verdict::Continue;
    }
    match (std::mem::take(held), ctx.buffered) {
        (Held::Again, Some(length)) => {
            if ctx.request.header("content-length").is_none() {
                ctx.request.set("content-length", length.to_string().as_bytes());
            }
            Verdict::Continue
        }
        _ => {
            *held = Held::Again;
            Verdict::Hold(most as usize)
        }
    }
}
