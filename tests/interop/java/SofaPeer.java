import com.alipay.sofa.rpc.config.ConsumerConfig;
import com.alipay.sofa.rpc.config.MethodConfig;
import com.alipay.sofa.rpc.config.ProviderConfig;
import com.alipay.sofa.rpc.config.ServerConfig;
import com.alipay.sofa.rpc.context.RpcInvokeContext;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** A SOFA RPC provider and consumer. SofaPeer server PORT | SofaPeer client PORT: prints a line per case. */
public final class SofaPeer {
    /** What the provider offers. */
    public interface Greeter {
        String greet(String name);

        Map<String, List<Integer>> mirror(Map<String, List<Integer>> value);

        String fail(String why);

        String nap(int milliseconds);

        String baggage(String key);

        void note();

        int noted();
    }

    /** Does it. */
    public static final class Impl implements Greeter {
        private final AtomicInteger notes = new AtomicInteger();

        public String greet(String name) {
            return name == null ? null : "hello " + name;
        }

        public Map<String, List<Integer>> mirror(Map<String, List<Integer>> value) {
            return value;
        }

        public String fail(String why) {
            throw new IllegalArgumentException(why);
        }

        public String nap(int milliseconds) {
            try {
                Thread.sleep(milliseconds);
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
            return "slept";
        }

        public String baggage(String key) {
            String value = RpcInvokeContext.getContext().getRequestBaggage(key);
            RpcInvokeContext.getContext().putResponseBaggage("back", "b:" + value);
            return value;
        }

        public void note() {
            notes.incrementAndGet();
        }

        public int noted() {
            return notes.get();
        }
    }

    private static ConsumerConfig<Greeter> consumer(int port, String version) {
        return new ConsumerConfig<Greeter>()
                .setInterfaceId(Greeter.class.getName())
                .setVersion(version)
                .setProtocol("bolt")
                .setDirectUrl("bolt://127.0.0.1:" + port)
                .setRegister(false)
                .setTimeout(5000);
    }

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[1]);
        if (args[0].equals("server")) {
            ServerConfig server = new ServerConfig().setProtocol("bolt").setPort(port).setDaemon(false);
            new ProviderConfig<Greeter>()
                    .setInterfaceId(Greeter.class.getName())
                    .setRef(new Impl())
                    .setServer(server)
                    .setRegister(false)
                    .export();
            System.out.println("serving");
            Thread.currentThread().join();
        }
        MethodConfig oneway = new MethodConfig().setName("note").setInvokeType("oneway");
        Greeter greeter = consumer(port, "1.0").setMethods(new ArrayList<>(List.of(oneway))).refer();
        Cases cases = new Cases();
        cases.run("call", () -> {
            for (int i = 0; i < 200; i++) {
                Cases.equal(greeter.greet("n" + i), "hello n" + i);
            }
        });
        cases.run("values", () -> {
            Map<String, List<Integer>> value = new java.util.HashMap<>();
            value.put("a", new ArrayList<>(List.of(1, 2, 3)));
            value.put("", new ArrayList<>());
            Cases.equal(greeter.mirror(value), value);
            if (greeter.greet(null) != null) {
                throw new AssertionError("null came back as something");
            }
        });
        cases.run("large", () -> {
            String name = "x".repeat(1_000_000);
            Cases.equal(greeter.greet(name), "hello " + name);
        });
        cases.run("the service's exception", () -> Cases.fails("as asked", () -> greeter.fail("as asked")));
        cases.run("unknown service", () -> {
            Greeter other = consumer(port, "9.9").refer();
            Cases.fails("", () -> other.greet("x"));
        });
        cases.run("timeout", () -> {
            Greeter hasty = consumer(port, "1.0").setTimeout(300).refer();
            Cases.fails("imeout", () -> hasty.nap(1500));
        });
        cases.run("baggage", () -> {
            RpcInvokeContext.getContext().putRequestBaggage("traveller", "bag");
            Cases.equal(greeter.baggage("traveller"), "bag");
            Cases.equal(RpcInvokeContext.getContext().getResponseBaggage("back"), "b:bag");
        });
        cases.run("oneway", () -> {
            int before = greeter.noted();
            for (int i = 0; i < 10; i++) {
                greeter.note();
            }
            for (int i = 0; i < 100 && greeter.noted() < before + 10; i++) {
                Thread.sleep(50);
            }
            Cases.equal(greeter.noted() - before, 10);
        });
        cases.run("many at once", () -> {
            var pool = Executors.newFixedThreadPool(32);
            List<Callable<String>> calls = new ArrayList<>();
            for (int i = 0; i < 1000; i++) {
                String name = "c" + i;
                calls.add(() -> greeter.greet(name));
            }
            int at = 0;
            for (Future<String> answer : pool.invokeAll(calls, 60, TimeUnit.SECONDS)) {
                Cases.equal(answer.get(), "hello c" + at++);
            }
            pool.shutdown();
        });
        cases.end();
    }
}
