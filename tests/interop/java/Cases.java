/** Runs cases one by one and says how each ended. */
final class Cases {
    interface Body {
        void run() throws Exception;
    }

    private int failed;

    void run(String name, Body body) {
        try {
            body.run();
            System.out.println("PASS " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("FAIL " + name + ": " + error);
            error.printStackTrace();
        }
    }

    void end() {
        System.out.flush();
        Runtime.getRuntime().halt(failed == 0 ? 0 : 1);
    }

    static void equal(Object got, Object expected) {
        if (!expected.equals(got)) {
            String text = String.valueOf(got);
            throw new AssertionError("got " + text.substring(0, Math.min(80, text.length())));
        }
    }

    /** `body` throws something that has `part` in its text or in that of a cause. */
    static void fails(String part, Body body) throws Exception {
        try {
            body.run();
        } catch (Exception error) {
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                if (cause.toString().contains(part)) {
                    return;
                }
            }
            throw error;
        }
        throw new AssertionError("nothing was thrown");
    }
}
