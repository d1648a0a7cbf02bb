//! Requests are complete before anyone after this sees them.

use super::chain::{State as Held, Verdict};
use super::context::Context;

pub(super) fn on_request(most: Option<u32>, state: &mut Held, ctx: &mut Context<'_>) -> Verdict {
    let Some(most) = most else { return Verdict::Continue };
    if ctx.ends {
        return Verdict::Continue;
    }
    match (std::mem::take(state), ctx.held.filter(|held| held.whole)) {
        (Held::Again, Some(held)) => {
            if ctx.request.header("content-length").is_none() {
                ctx.request.set("content-length", held.data.len().to_string().as_bytes());
            }
            Verdict::Continue
        }
        _ => {
            *state = Held::Again;
            Verdict::Hold(most as usize)
        }
    }
}
