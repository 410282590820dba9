// LangChain4j through a vendor's module: NAME, URL and KEY in the environment. Prints as JSON what it made of a response
// and a stream (KIND=text), of a tool call (tool), or of a refusal (error).
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.HttpException;
import dev.langchain4j.model.anthropic.AnthropicChatModel;
import dev.langchain4j.model.anthropic.AnthropicStreamingChatModel;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.json.JsonObjectSchema;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.googleai.GoogleAiGeminiChatModel;
import dev.langchain4j.model.googleai.GoogleAiGeminiStreamingChatModel;
import dev.langchain4j.model.mistralai.MistralAiChatModel;
import dev.langchain4j.model.mistralai.MistralAiStreamingChatModel;
import dev.langchain4j.model.openai.OpenAiChatModel;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

public final class Client {
  private static final String URL = System.getenv("URL");
  private static final String KEY = System.getenv("KEY");
  private static final ToolSpecification WEATHER = ToolSpecification.builder()
      .name("weather")
      .description("Weather")
      .parameters(JsonObjectSchema.builder().addStringProperty("city").required("city").build())
      .build();

  private record Models(ChatModel whole, StreamingChatModel streaming) {}

  private static Models models(String name) {
    return switch (name) {
      case "openai" -> new Models(
          OpenAiChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("gpt-4o").maxRetries(0).build(),
          OpenAiStreamingChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("gpt-4o").build());
      case "anthropic" -> new Models(
          AnthropicChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("claude-sonnet-4-5").maxTokens(30)
              .maxRetries(0).build(),
          AnthropicStreamingChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("claude-sonnet-4-5")
              .maxTokens(30).build());
      case "google" -> new Models(
          GoogleAiGeminiChatModel.builder().baseUrl(URL + "/v1beta").apiKey(KEY).modelName("gemini-2.5-flash")
              .maxRetries(0).build(),
          GoogleAiGeminiStreamingChatModel.builder().baseUrl(URL + "/v1beta").apiKey(KEY)
              .modelName("gemini-2.5-flash").build());
      case "mistral" -> new Models(
          MistralAiChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("mistral-small").maxRetries(0)
              .build(),
          MistralAiStreamingChatModel.builder().baseUrl(URL + "/v1").apiKey(KEY).modelName("mistral-small").build());
      default -> throw new IllegalArgumentException(name);
    };
  }

  private static String stream(StreamingChatModel model) throws Exception {
    var whole = new StringBuilder();
    var ended = new CompletableFuture<String>();
    model.chat("What is the weather in Paris?", new StreamingChatResponseHandler() {
      @Override public void onPartialResponse(String text) { whole.append(text); }
      @Override public void onCompleteResponse(ChatResponse response) { ended.complete(whole.toString()); }
      @Override public void onError(Throwable error) { ended.completeExceptionally(error); }
    });
    return ended.get(30, TimeUnit.SECONDS);
  }

  private static Map<String, Object> refusal(ChatModel model, String text) {
    try {
      model.chat(text);
      return Map.of("name", "none");
    } catch (RuntimeException error) {
      var found = new LinkedHashMap<String, Object>();
      found.put("name", error.getClass().getSimpleName());
      for (Throwable cause = error; cause != null; cause = cause.getCause()) {
        if (cause instanceof HttpException http) found.put("status", http.statusCode());
      }
      return found;
    }
  }

  public static void main(String[] arguments) throws Exception {
    var models = models(System.getenv("NAME"));
    var found = new LinkedHashMap<String, Object>();
    var kind = System.getenv("KIND");
    if (kind.equals("error")) {
      found.put("error", refusal(models.whole(), "What is the weather in Paris?"));
    } else if (kind.equals("text")) {
      found.put("ask", models.whole().chat("What is the weather in Paris?"));
      found.put("stream", stream(models.streaming()));
    } else {
      var asked = ChatRequest.builder().messages(UserMessage.from("What is the weather in Paris?"))
          .toolSpecifications(WEATHER).build();
      var calls = models.whole().chat(asked).aiMessage().toolExecutionRequests();
      found.put("tool", calls == null || calls.isEmpty() ? null : calls.get(0).name() + calls.get(0).arguments());
    }
    System.out.println(new ObjectMapper().writeValueAsString(found));
    System.exit(0);
  }
}
