import com.sun.management.OperatingSystemMXBean;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.zip.GZIPInputStream;
import org.apache.flink.api.common.JobExecutionResult;
import org.apache.flink.api.common.accumulators.LongCounter;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.typeinfo.TypeHint;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.cep.CEP;
import org.apache.flink.cep.PatternSelectFunction;
import org.apache.flink.cep.nfa.aftermatch.AfterMatchSkipStrategy;
import org.apache.flink.cep.pattern.Pattern;
import org.apache.flink.cep.pattern.conditions.SimpleCondition;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.RichSinkFunction;
import org.apache.flink.streaming.api.functions.source.RichParallelSourceFunction;

/** Measures Flink CEP on "a small payment, then a large one of the same customer within 6 hours". */
public final class FlinkCep {
    private static final long SMALL_BELOW_CENTS = 500;
    private static final long LARGE_ABOVE_CENTS = 50_000;
    /** One millisecond more than 6 hours: Flink excludes its bound, the rule measured includes its own. */
    private static final Duration WITHIN = Duration.ofHours(6).plusMillis(1);
    private static final Duration OUT_OF_ORDER = Duration.ofSeconds(60);
    private static final String MATCHES = "matches";

    /** What each instance of the source emits, in the order of time. Read in place: source and job share this JVM. */
    private static List<List<Payment>> payments;

    /** A card payment, as the file has it. Public fields and constructor make it a POJO to Flink. */
    public static final class Payment {
        public String txId;
        public long ts;
        public String customer;
        public String vendor;
        public long amountCents;
        public double lat;
        public double lon;
        public String category;

        public Payment() {}
    }

    /** Emits the payments of its share of the customers. */
    private static final class Memory extends RichParallelSourceFunction<Payment> {
        private volatile boolean running = true;

        @Override
        public void run(SourceContext<Payment> out) {
            List<Payment> own = payments.get(getRuntimeContext().getTaskInfo().getIndexOfThisSubtask());
            for (Payment payment : own) {
                if (!running) {
                    return;
                }
                synchronized (out.getCheckpointLock()) {
                    out.collect(payment);
                }
            }
        }

        @Override
        public void cancel() {
            running = false;
        }
    }

    /** Counts matches and keeps none. */
    private static final class Count extends RichSinkFunction<Tuple2<String, String>> {
        private final LongCounter matches = new LongCounter();

        @Override
        public void open(OpenContext context) {
            getRuntimeContext().addAccumulator(MATCHES, matches);
        }

        @Override
        public void invoke(Tuple2<String, String> match, Context context) {
            matches.add(1);
        }
    }

    private FlinkCep() {}

    public static void main(String[] args) throws Exception {
        if (args.length != 3) {
            System.err.println("usage: flink-cep.jar <cards.csv.gz> <repetitions> <parallelism>");
            System.exit(2);
        }
        int repetitions = Integer.parseInt(args[1]);
        int parallelism = Integer.parseInt(args[2]);
        payments = load(args[0], repetitions, parallelism);
        long events = payments.stream().mapToLong(List::size).sum();
        for (String run : new String[] {"cold", "warm"}) {
            System.gc();
            measure(run, events, parallelism);
        }
    }

    /** Reads the file and copies each payment once per repetition. All payments of a customer are in one list. */
    private static List<List<Payment>> load(String path, int repetitions, int lists) throws IOException {
        List<List<Payment>> all = new ArrayList<>();
        for (int i = 0; i < lists; i++) {
            all.add(new ArrayList<>());
        }
        Map<String, Integer> listOf = new HashMap<>();
        try (BufferedReader lines = new BufferedReader(new InputStreamReader(
                new GZIPInputStream(new FileInputStream(path)), StandardCharsets.UTF_8))) {
            String head = lines.readLine();
            if (!"tx_id,ts,customer,vendor,amount_cents,lat,lon,category".equals(head)) {
                throw new IOException("unexpected columns: " + head);
            }
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] cells = line.split(",", -1);
                for (int i = 0; i < repetitions; i++) {
                    Payment payment = new Payment();
                    payment.txId = cells[0] + "-" + i;
                    payment.ts = Long.parseLong(cells[1]);
                    payment.customer = cells[2] + "-" + i;
                    payment.vendor = cells[3];
                    payment.amountCents = Long.parseLong(cells[4]);
                    payment.lat = Double.parseDouble(cells[5]);
                    payment.lon = Double.parseDouble(cells[6]);
                    payment.category = cells[7];
                    int list = listOf.computeIfAbsent(payment.customer, customer -> listOf.size() % lists);
                    all.get(list).add(payment);
                }
            }
        }
        return all;
    }

    private static void measure(String run, long events, int parallelism) throws Exception {
        OperatingSystemMXBean processor = ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(parallelism);
        env.getConfig().enableObjectReuse();
        env.getConfig().disableGenericTypes();

        KeyedStream<Payment, String> keyed = env
                .addSource(new Memory(), TypeInformation.of(Payment.class))
                .assignTimestampsAndWatermarks(WatermarkStrategy
                        .<Payment>forBoundedOutOfOrderness(OUT_OF_ORDER)
                        .withTimestampAssigner((payment, before) -> payment.ts * 1000))
                .keyBy(payment -> payment.customer);
        Pattern<Payment, Payment> pattern = Pattern
                .<Payment>begin("small", AfterMatchSkipStrategy.skipPastLastEvent())
                .where(SimpleCondition.of(payment -> payment.amountCents < SMALL_BELOW_CENTS))
                .followedBy("large")
                .where(SimpleCondition.of(payment -> payment.amountCents > LARGE_ABOVE_CENTS))
                .within(WITHIN);
        PatternSelectFunction<Payment, Tuple2<String, String>> select = match -> {
            Payment large = match.get("large").get(0);
            return Tuple2.of(large.customer, large.txId);
        };
        CEP.pattern(keyed, pattern)
                .inEventTime()
                .select(select, TypeInformation.of(new TypeHint<Tuple2<String, String>>() {}))
                .addSink(new Count());

        long cpuBefore = processor.getProcessCpuTime();
        long start = System.nanoTime();
        JobExecutionResult result = env.execute("flink-cep");
        double seconds = (System.nanoTime() - start) / 1e9;
        double cpuSeconds = (processor.getProcessCpuTime() - cpuBefore) / 1e9;
        long matches = result.getAccumulatorResult(MATCHES);
        System.out.printf(
                Locale.ROOT,
                "%s events %d matches %d seconds %.3f events_per_second %.0f job_seconds %.3f cpu_seconds %.1f%n",
                run, events, matches, seconds, events / seconds, result.getNetRuntime() / 1e3, cpuSeconds);
    }
}
